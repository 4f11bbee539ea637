-- Bytes that runs have logged or written to files, in all processes.
create table run_bytes (
    run_id text not null,
    kind text not null check (kind in ('logged', 'written')),
    bytes integer not null,
    primary key (run_id, kind)
) without rowid;
