-- Limits of how much is in progress at once: each with a key is a gate. What a run or a visit has there is a
-- slot, which is held, or waits if `held_at` is null. `visit_id` is empty for a run.
create table gates (
    id text collate "C" not null,
    tenant text collate "C" not null,
    name text not null,
    value text,
    kind text,
    units integer not null,
    held integer not null,
    waiting integer not null,
    ceiling integer not null,
    edition bigint not null,
    primary key (tenant, id),
    check (held >= 0 and held <= ceiling and units <= ceiling and waiting >= 0)
);
create index gates_stalled on gates (id, tenant) where waiting > 0 and held < units;
create table slots (
    gate_id text collate "C" not null,
    gate_tenant text collate "C" not null,
    run_id text not null,
    visit_id text not null,
    units integer not null,
    rank double precision not null,
    queued_at double precision not null,
    held_at double precision,
    primary key (run_id, visit_id, gate_id, gate_tenant)
);
create index slots_queue on slots
    (gate_id, gate_tenant, rank, queued_at, run_id collate "C", visit_id collate "C")
    where held_at is null;
create index slots_held on slots (gate_id, gate_tenant, held_at, run_id collate "C", visit_id collate "C")
    where held_at is not null;
