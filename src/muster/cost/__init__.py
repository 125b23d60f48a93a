"""What a piece of work costs on a machine: seconds and bytes from sizes and speeds. Pure arithmetic, no search.

Reading order: `memory` (space to serve), `work` (operations and bytes of every kind of step), `layer_ranges` (both for
all layer ranges at once), `pace` (seconds of work by fitted constants), `island` (the same on several devices), `fit`
(how constants are fitted), `measured` (those that come with Muster), `codecs` (bytes of a message), `transfer` (its
seconds), `training_memory`; `offload/` (stages larger than their devices).
Sizes of models: `from_config` (a config.json) by way of `config_fields`, `families` and `layer_sizes`; `named_shapes`.
"""
