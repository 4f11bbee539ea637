-- The `traceparent` of whoever started a run.
alter table runs add column trace text;
