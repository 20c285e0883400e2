"""What pyproject.toml requires, with the extras that are named: `python requirements.py cli server`."""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *(line for name in sys.argv[1:] for line in extras.get(name, ())), sep="\n")
