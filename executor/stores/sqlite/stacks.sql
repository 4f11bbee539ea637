-- The branches of a run in sequential mode, as JSON.
alter table runs add column stack text;
