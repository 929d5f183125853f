#!/usr/bin/env python3
"""Exit with status 1 if modules of dali_mix import each other in a cycle; imports under TYPE_CHECKING count."""

import sys
from graphlib import CycleError, TopologicalSorter

import grimp

graph = grimp.build_graph("dali_mix", exclude_type_checking_imports=False, cache_dir=None)
imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
try:
    TopologicalSorter(imports).prepare()
except CycleError as error:
    sys.exit("These files import each other: " + " <- ".join(error.args[1]))
print(f"No cycle among {len(imports)} files")
