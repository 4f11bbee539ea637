"""Running a playbook in this process."""
