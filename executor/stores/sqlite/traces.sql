-- The W3C `traceparent` of the request that started a run.
alter table runs add column trace text;
