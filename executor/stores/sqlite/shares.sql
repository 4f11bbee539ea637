-- Claims take in turn the longest due visits of any kind, and of those that wait for nothing.
create index visits_ready on visits (((queue || ' ' || tenant) collate binary), due_at, position)
    where status = 'ready';
