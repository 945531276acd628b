"""The figures: each is a function that starts what it measures, and yields its rows.
`bench.__main__` runs them.
"""
