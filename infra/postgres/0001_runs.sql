-- Plans, runs and the queue: the table of visits. A visit is due when `due_at` has come, whatever waits for that: a first
-- claim, a retry, or a lease that ran out. Times are seconds since the epoch; what has a structure is JSON in ASCII.

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
    -- Who looks for what is due walks over what was due before, until that is vacuumed.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    vacuum_index_cleanup = on
);
create index visits_due on visits (queue, due_at, position) where status in ('ready', 'retrying', 'waiting', 'running');
create index visits_active on visits (run_id, status) where status in ('ready', 'retrying', 'waiting', 'running');

-- Results of the batches of loops, until their visit is done.
create table parts (
    run_id text not null,
    visit_id text not null,
    loop text not null,
    position bigint not null,
    body text not null,
    primary key (run_id, visit_id, loop, position)
);

-- What visits wait for, as far as anything has been heard of it, and the hashes of the tokens that answer.
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

-- The registry. What was removed stays, so that its version never means anything else.
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

-- Of a join: the branches on the way to it, and how often it has fired, last with which clock and names. Beside it the
-- visits of a step that can be visited again.
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
