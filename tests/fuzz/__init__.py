"""Requests that nobody means well: thousands of them, each judged by the same rule."""
