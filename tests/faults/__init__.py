"""Faults and bad input, tried as a user would meet them: each ends well. ``docs/reliability.md`` is the table.

Most cases run the command line in this process (``own_data.run``), which takes about a tenth of a second; those in which a process is
ended, or has to end by itself, start one (``own_data.start``, about ten seconds). Both give an outcome for :func:`assert_ends_well`.
"""
