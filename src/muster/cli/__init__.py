"""The command `muster`: one file per verb, each thin. Nothing here decides what a pool does.

Reading order: `main` (the verbs and how an error ends), `options` and `output` (what the verbs have in common),
`find_head` and `head_client` (a running head, over HTTP), then the verbs. Of `plan`: `plan_options` and `plan_inputs`
(words), `planning` (what the planners are asked), `plan_work` (the verb itself), `plan_record` and `plan_text` (its
answer for programs and for people). `simulate` likewise.
Heavy imports (torch, transformers) happen inside the commands that need them, so that `muster --help` answers at once.
"""
