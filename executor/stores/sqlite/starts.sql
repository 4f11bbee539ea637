-- How many starts share a run of a playbook with `debounce`.
alter table runs add column starts integer not null default 1;
