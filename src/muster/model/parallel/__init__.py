"""A stage that several devices hold together: each has a part of every large matrix (tensor parallelism).

Reading order: `group` (what members do together), `cuts` (which part of which matrix is whose), `layers` (modules that
work on parts), `threads` (members that are threads of one process), `process_group` (members in
several processes).
"""
