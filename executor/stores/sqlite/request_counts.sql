-- Requests of callers, counted in a ring of slots of time. Processes that share the store share the counts.
create table request_counts (
    subject text not null,
    place integer not null,
    slot integer not null,
    used integer not null,
    primary key (subject, place)
) without rowid;
