-- Flows of the slots that wait at a gate: that with the lowest tag is served next. `clock` is the tag of the
-- flow that was served last. A flow without slots that wait has no row.
alter table gates add column clock integer not null default 0;
alter table slots add column flow text not null default '';
create table flows (
    gate_id text not null,
    gate_tenant text not null,
    flow text not null,
    tag integer not null,
    waiting integer not null,
    primary key (gate_tenant, gate_id, flow),
    check (waiting > 0)
) without rowid;
create index flows_order on flows (gate_id, gate_tenant, tag, flow);
update slots set rank = queued_at;
insert into flows (gate_id, gate_tenant, flow, tag, waiting)
    select gate_id, gate_tenant, '', 1, count(*) from slots
    where held_at is null group by gate_id, gate_tenant;
drop index slots_queue;
create index slots_queue on slots (gate_id, gate_tenant, flow, rank, queued_at, run_id, visit_id)
    where held_at is null;
