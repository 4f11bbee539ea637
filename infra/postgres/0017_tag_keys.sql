-- The table of tags has the key of each tag `KEY=VALUE`, too, so that a list finds all of its values.
insert into run_tags
    select tenant, substr(tag, 1, strpos(tag, '=') - 1) || '"', created_at, run_id from run_tags
    where strpos(tag, '=') > 2
    on conflict do nothing;
