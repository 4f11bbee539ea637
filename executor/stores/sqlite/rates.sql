-- Gates of rates: the log of their reservations as JSON, and the time from which an own one may be deleted.
alter table gates add column rate text;
alter table gates add column idle_at real;
create index gates_idle on gates (idle_at) where idle_at is not null;
