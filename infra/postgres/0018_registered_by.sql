-- Name of the caller that has registered a playbook; null if it is unknown.
alter table playbooks add column registered_by text;
