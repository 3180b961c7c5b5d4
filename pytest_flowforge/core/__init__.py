"""The engine and the values it works on.

Everything below this package is pure: no pytest, no pluggy, no clock, no randomness, no thread, no file, no
logging. Time comes in as data, what is to be done goes out as data.
"""
