-- One file holds plans, runs and the queue: the table of visits. A visit is due when `due_at` has come, whatever waits
-- for that: a first claim, a retry, or a lease that ran out.

create table plans (
    hash text primary key,
    header text not null,
    source text not null
) without rowid;

create table plan_parts (
    hash text not null,
    kind text not null check (kind in ('step', 'task')),
    position integer not null,
    name text not null,
    body text not null,
    primary key (hash, kind, name)
) without rowid;

create table runs (
    id text primary key,
    tenant text not null,
    playbook text not null,
    version text,
    plan_hash text not null,
    status text not null,
    origin text not null,
    input text not null,
    environment text not null,
    variables text not null,
    tags text not null,
    folder text,
    created_at real not null,
    started_at real,
    finished_at real,
    deadline_at real,
    live integer not null,
    failed_branches integer not null default 0,
    stop text,
    resumes integer not null default 0,
    seq integer not null default 0,
    result text,
    error text,
    errors text not null default '[]'
);
create index runs_newest on runs (tenant, created_at desc, id desc);

create table visits (
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
    finished_at real,
    saved text,
    result text,
    "case" integer,
    error text,
    failure text,
    progress text,
    primary key (run_id, id)
) without rowid;
create index visits_due on visits (queue, due_at, position) where status in ('ready', 'retrying', 'waiting', 'running');
create index visits_active on visits (run_id, status) where status in ('ready', 'retrying', 'waiting', 'running');

-- Results of the batches of a loop, until the visit is done.
create table parts (
    run_id text not null,
    visit_id text not null,
    position integer not null,
    body text not null,
    primary key (run_id, visit_id, position)
) without rowid;

-- Of a join: the branches on the way to it, and how often it has fired, last with which clock and names. Beside it the
-- visits of a step that can be visited again.
create table joins (
    run_id text not null,
    step text not null,
    live integer not null default 0,
    wave integer not null default 0,
    clock integer not null default 0,
    names text not null default '{}',
    primary key (run_id, step)
) without rowid;

create table arrivals (
    run_id text not null,
    step text not null,
    id text not null,
    clock integer not null,
    names text not null,
    primary key (run_id, step, id)
) without rowid;

create table visit_counts (
    run_id text not null,
    step text not null,
    visits integer not null,
    primary key (run_id, step)
) without rowid;

create table history (
    run_id text not null,
    seq integer not null,
    events text not null,
    primary key (run_id, seq)
) without rowid;

create table idempotency_keys (
    tenant text not null,
    key text not null,
    request_hash text not null,
    run_id text not null,
    primary key (tenant, key)
) without rowid;
