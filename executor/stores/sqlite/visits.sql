-- Rows of visits are stored in the order of creation, so new rows go to the end of the table. Stored by id,
-- each would change another page. The partial indexes spell out their conditions, because SQLite builds a
-- temporary table for the values of a longer `in`.
create table visits_in_order (
    run_id text not null,
    id text not null,
    step text not null,
    queue text not null,
    status text not null,
    position integer not null,
    clock integer not null,
    names text not null,
    number integer not null,
    attempt integer not null default 1,
    claims integer not null default 0,
    fence integer not null default 0,
    worker text,
    due_at real not null,
    started_at real,
    piece_at real,
    finished_at real,
    saved text,
    result text,
    "case" integer,
    error text,
    failure text,
    progress text,
    primary key (run_id, id)
);
insert into visits_in_order select * from visits order by run_id, position;
drop table visits;
alter table visits_in_order rename to visits;
create index visits_due on visits (queue, due_at, position)
    where (status = 'ready' or status = 'running' or status = 'waiting' or status = 'retrying');
create index visits_active on visits (run_id, status)
    where (status = 'ready' or status = 'running' or status = 'waiting' or status = 'retrying');
