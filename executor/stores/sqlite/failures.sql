-- The items of a loop that failed in a visit, as JSON; null if there are none.
alter table visits add column failures text;
