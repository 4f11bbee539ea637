-- Plans that no run and no registered playbook names are deleted. `used_at` is the time of the last start.
alter table plans add column used_at real not null default 0;
create index plans_used on plans (used_at);
create index runs_of_plan on runs (plan_hash);
create index playbooks_of_plan on playbooks (plan_hash);
