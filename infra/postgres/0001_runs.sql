-- Plans, runs, and the queue, which is the table of visits. A visit is due from `due_at` on, for a first
-- claim, for a retry, or because its lease has expired. Times are seconds since the epoch. Structured values
-- are JSON in ASCII.

create table plans (
    hash text primary key,
    header text not null,
    source text not null
);

create table plan_parts (
    hash text not null,
    kind text not null check (kind in ('step', 'task')),
    position bigint not null,
    name text not null,
    body text not null,
    primary key (hash, kind, name)
);

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
    created_at double precision not null,
    started_at double precision,
    finished_at double precision,
    deadline_at double precision,
    live integer not null,
    failed_branches integer not null default 0,
    stop text,
    resumes integer not null default 0,
    seq bigint not null default 0,
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
    position bigint not null,
    clock bigint not null,
    names text not null,
    number bigint not null,
    attempt integer not null default 1,
    claims integer not null default 0,
    fence bigint not null default 0,
    worker text,
    due_at double precision not null,
    started_at double precision,
    piece_at double precision,
    finished_at double precision,
    saved text,
    result text,
    "case" integer,
    error text,
    failure text,
    progress text,
    primary key (run_id, id)
) with (
    -- A search for due visits passes over index entries of earlier visits until they are vacuumed.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    vacuum_index_cleanup = on
);
create index visits_due on visits (queue, due_at, position)
    where status in ('ready', 'retrying', 'waiting', 'running');
create index visits_active on visits (run_id, status)
    where status in ('ready', 'retrying', 'waiting', 'running');

-- Results of loop batches, until their visit is finished.
create table parts (
    run_id text not null,
    visit_id text not null,
    loop text not null,
    position bigint not null,
    body text not null,
    primary key (run_id, visit_id, loop, position)
);

-- Waits of visits, and the hashes of the tokens that answer them. `heard_at` is the last heartbeat.
create table waits (
    run_id text not null,
    visit_id text not null,
    id text not null,
    answer text,
    answered_at double precision,
    heard_at double precision,
    closed_at double precision,
    primary key (run_id, visit_id, id)
);

create table tokens (
    hash text primary key,
    run_id text not null,
    visit_id text not null,
    wait_id text not null
);

-- Registered playbooks. A removed version keeps its row, so that it never means another text.
create table playbooks (
    tenant text not null,
    name text not null,
    version text not null,
    number bigint not null,
    plan_hash text not null,
    created_at double precision not null,
    removed_at double precision,
    primary key (tenant, name, version)
);
create unique index playbooks_newest on playbooks (tenant, name, number desc);

-- State of a join: `live` branches can still reach it, `wave` is the number of firings, `clock` and `names`
-- are those of the last firing. `visit_counts` numbers the visits of steps on cycles.
create table joins (
    run_id text not null,
    step text not null,
    live integer not null default 0,
    wave integer not null default 0,
    clock bigint not null default 0,
    names text not null default '{}',
    primary key (run_id, step)
);

create table arrivals (
    run_id text not null,
    step text not null,
    id text not null,
    clock bigint not null,
    names text not null,
    primary key (run_id, step, id)
);

create table visit_counts (
    run_id text not null,
    step text not null,
    visits bigint not null,
    primary key (run_id, step)
);

create table history (
    run_id text not null,
    seq bigint not null,
    events text not null,
    primary key (run_id, seq)
);

create table idempotency_keys (
    tenant text not null,
    key text not null,
    request_hash text not null,
    run_id text not null,
    primary key (tenant, key)
);
