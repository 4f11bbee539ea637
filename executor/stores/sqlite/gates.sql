-- Limits of how much is in progress at once: each with a key is a gate. What a run or a visit has there is a
-- slot, which is held, or waits if `held_at` is null. `visit_id` is empty for a run.
create table gates (
    id text not null,
    tenant text not null,
    name text not null,
    value text,
    kind text,
    units integer not null,
    held integer not null,
    waiting integer not null,
    ceiling integer not null,
    edition integer not null,
    primary key (tenant, id),
    check (held >= 0 and held <= ceiling and units <= ceiling and waiting >= 0)
) without rowid;
create index gates_stalled on gates (id, tenant) where waiting > 0 and held < units;
create table slots (
    gate_id text not null,
    gate_tenant text not null,
    run_id text not null,
    visit_id text not null,
    units integer not null,
    rank real not null,
    queued_at real not null,
    held_at real,
    primary key (run_id, visit_id, gate_id, gate_tenant)
) without rowid;
create index slots_queue on slots (gate_id, gate_tenant, rank, queued_at, run_id, visit_id)
    where held_at is null;
create index slots_held on slots (gate_id, gate_tenant, held_at, run_id, visit_id)
    where held_at is not null;
