-- Plans, runs, and the queue, which is the table of visits. A visit is due from `due_at` on, for a first
-- claim, for a retry, or because its lease has expired.

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
    queue text not null,
    input text not null,
    environment text not null,
    variables text not null,
    tags text not null,
    folder text,
    source text,
    parent_run text,
    parent_visit text,
    parent_wait text,
    depth integer not null default 0,
    resumed_from text,
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
create index runs_children on runs (parent_run) where parent_run is not null;

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
    piece_at real,
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

-- Results of loop batches, until their visit is finished.
create table parts (
    run_id text not null,
    visit_id text not null,
    loop text not null,
    position integer not null,
    body text not null,
    primary key (run_id, visit_id, loop, position)
) without rowid;

-- Waits of visits, and the hashes of the tokens that answer them. `heard_at` is the last heartbeat.
create table waits (
    run_id text not null,
    visit_id text not null,
    id text not null,
    answer text,
    answered_at real,
    heard_at real,
    closed_at real,
    primary key (run_id, visit_id, id)
) without rowid;

create table tokens (
    hash text primary key,
    run_id text not null,
    visit_id text not null,
    wait_id text not null
) without rowid;

-- Registered playbooks. A removed version keeps its row, so that it never means another text.
create table playbooks (
    tenant text not null,
    name text not null,
    version text not null,
    number integer not null,
    plan_hash text not null,
    created_at real not null,
    removed_at real,
    primary key (tenant, name, version)
) without rowid;
create unique index playbooks_newest on playbooks (tenant, name, number desc);

-- State of a join: `live` branches can still reach it, `wave` is the number of firings, `clock` and `names`
-- are those of the last firing. `visit_counts` numbers the visits of steps on cycles.
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
