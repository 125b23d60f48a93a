"""What a piece of work costs on a machine: seconds and bytes from sizes and speeds. Pure arithmetic, no search.

Reading order: `roofline` (time, as the quick planner takes it), `memory` (space to serve), `work` (operations and bytes
of every kind of step), `pace` (seconds by fitted constants), `fit` (how they are fitted), `measured` (those that come
with Muster), `codecs`, `training_memory`.
Sizes of models: `from_config` (a config.json) by way of `config_fields`, `families` and `layer_sizes`; `named_shapes`.
"""
