"""The judgement of a switch: whether a run may continue in another version of its playbook."""
