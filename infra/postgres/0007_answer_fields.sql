-- The declared fields of the answers that a token may give, as JSON; null if any value is an answer.
alter table tokens add column fields text;
