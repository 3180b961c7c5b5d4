"""What every test of this repository may use."""

#: pytest accepts this in the topmost conftest.py only.
pytest_plugins = ["pytester"]
