"""Helpers of the tests: real servers started and stopped, leaks found."""
