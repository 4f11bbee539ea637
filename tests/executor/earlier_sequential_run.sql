-- A store of schema 7, in which an earlier version performs branches of `mode: sequential` in another order.
-- The branch at `b` waits until 60, and the visit of `c` exists already.
BEGIN TRANSACTION;
CREATE TABLE arrivals (
    run_id text not null,
    step text not null,
    id text not null,
    clock integer not null,
    names text not null,
    primary key (run_id, step, id)
) without rowid;
CREATE TABLE history (
    run_id text not null,
    seq integer not null,
    events text not null,
    primary key (run_id, seq)
) without rowid;
INSERT INTO "history" VALUES('earlier',1,'[["workflow.started",0.0,null,null,null,null,{"playbook":"play"}]]');
INSERT INTO "history" VALUES('earlier',2,'[["step.started",0.0,"a",1,1,null,{"worker":"one"}]]');
INSERT INTO "history" VALUES('earlier',3,'[["action.started",0.0,"a",1,1,null,{"action":"set","position":"run.0"}],["action.completed",0.0,"a",1,1,0.0,{"action":"set","position":"run.0"}],["step.transition",0.0,"a",1,1,null,{"case":0,"targets":["b","c"]}],["step.completed",0.0,"a",1,1,0.0,{}]]');
INSERT INTO "history" VALUES('earlier',4,'[["step.started",0.0,"b",1,1,null,{"worker":"one"}]]');
INSERT INTO "history" VALUES('earlier',5,'[["action.started",0.0,"b",1,1,null,{"action":"set","position":"run.0"}],["action.completed",0.0,"b",1,1,0.0,{"action":"set","position":"run.0"}],["action.started",0.0,"b",1,1,null,{"action":"wait","position":"run.1"}],["step.waiting",0.0,"b",1,1,null,{"until":"1970-01-01T00:01:00.000000Z","actions":["wait"]}]]');
CREATE TABLE idempotency_keys (
    tenant text not null,
    key text not null,
    request_hash text not null,
    run_id text not null,
    primary key (tenant, key)
) without rowid;
CREATE TABLE joins (
    run_id text not null,
    step text not null,
    live integer not null default 0,
    wave integer not null default 0,
    clock integer not null default 0,
    names text not null default '{}',
    primary key (run_id, step)
) without rowid;
CREATE TABLE keys (
    id text primary key,
    hash text not null,
    tenant text not null,
    name text not null,
    scopes text not null,
    created_at real not null,
    last_used_at real,
    revoked_at real
) without rowid;
CREATE TABLE parts (
    run_id text not null,
    visit_id text not null,
    loop text not null,
    position integer not null,
    body text not null,
    primary key (run_id, visit_id, loop, position)
) without rowid;
CREATE TABLE plan_parts (
    hash text not null,
    kind text not null check (kind in ('step', 'task')),
    position integer not null,
    name text not null,
    body text not null,
    primary key (hash, kind, name)
) without rowid;
INSERT INTO "plan_parts" VALUES('d3c262d755d770f6d0fad4849ee5086e1b7c549925653c63eeffe11dfc70e7e6','step',0,'a','{"run":[{"action":"set","parameters":{"set":{"x":1}},"as":null,"if":null,"retry":{"attempts":1,"delay_seconds":1.0,"backoff":2.0,"max_delay_seconds":300.0,"jitter":true,"if":null},"timeout_seconds":null,"forgiven":false,"loop":null}],"parallel":false,"cases":[{"guard":null,"error_aware":false,"targets":["b","c"],"work":[],"live":{},"leads_back":false}],"join":null,"each":false,"regions":[],"cyclic":false,"max_visits":null,"retry":{"attempts":1,"delay_seconds":1.0,"backoff":2.0,"max_delay_seconds":300.0,"jitter":true,"if":null},"timeout_seconds":null,"on_error":"abort","loop":null,"repeat":null,"at_most_once":false,"runs_last":false,"reads":[],"saves":["x"],"hands_on":["x","y"],"line":4}');
INSERT INTO "plan_parts" VALUES('d3c262d755d770f6d0fad4849ee5086e1b7c549925653c63eeffe11dfc70e7e6','step',1,'b','{"run":[{"action":"set","parameters":{"set":{"y":2}},"as":null,"if":null,"retry":{"attempts":1,"delay_seconds":1.0,"backoff":2.0,"max_delay_seconds":300.0,"jitter":true,"if":null},"timeout_seconds":null,"forgiven":false,"loop":null},{"action":"wait","parameters":{"seconds":60},"as":null,"if":null,"retry":{"attempts":1,"delay_seconds":1.0,"backoff":2.0,"max_delay_seconds":300.0,"jitter":true,"if":null},"timeout_seconds":null,"forgiven":false,"loop":null},{"action":"log","parameters":{"message":"{{ x }}"},"as":null,"if":null,"retry":{"attempts":1,"delay_seconds":1.0,"backoff":2.0,"max_delay_seconds":300.0,"jitter":true,"if":null},"timeout_seconds":null,"forgiven":false,"loop":null}],"parallel":false,"cases":[],"join":null,"each":false,"regions":[],"cyclic":false,"max_visits":null,"retry":{"attempts":1,"delay_seconds":1.0,"backoff":2.0,"max_delay_seconds":300.0,"jitter":true,"if":null},"timeout_seconds":null,"on_error":"abort","loop":null,"repeat":null,"at_most_once":false,"runs_last":false,"reads":["x"],"saves":["y"],"hands_on":["x","y"],"line":5}');
INSERT INTO "plan_parts" VALUES('d3c262d755d770f6d0fad4849ee5086e1b7c549925653c63eeffe11dfc70e7e6','step',2,'c','{"run":[{"action":"log","parameters":{"message":"{{ y }}"},"as":null,"if":null,"retry":{"attempts":1,"delay_seconds":1.0,"backoff":2.0,"max_delay_seconds":300.0,"jitter":true,"if":null},"timeout_seconds":null,"forgiven":false,"loop":null}],"parallel":false,"cases":[],"join":null,"each":false,"regions":[],"cyclic":false,"max_visits":null,"retry":{"attempts":1,"delay_seconds":1.0,"backoff":2.0,"max_delay_seconds":300.0,"jitter":true,"if":null},"timeout_seconds":null,"on_error":"abort","loop":null,"repeat":null,"at_most_once":false,"runs_last":false,"reads":["y"],"saves":[],"hands_on":["x","y"],"line":6}');
CREATE TABLE plans (
    hash text primary key,
    header text not null,
    source text not null
) without rowid;
INSERT INTO "plans" VALUES('d3c262d755d770f6d0fad4849ee5086e1b7c549925653c63eeffe11dfc70e7e6','{"format":1,"name":"play","version":null,"description":null,"start":"a","inputs":{},"takes_other_inputs":false,"environment":{},"variables":{},"output":null,"reads":null,"timeout_seconds":null,"finally":null,"sequential":true,"statistics":{"steps":3,"tasks":0,"edges":2,"forks":1,"joins":0,"cycles":0,"most_visits":3,"actions":{"log":2,"set":2,"wait":1}}}','name: play
mode: sequential
steps:
- {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b, c]}]}
- {name: b, run: [{action: set, set: {y: 2}}, {action: wait, seconds: 60}, {action: log, message: "{{ x }}"}]}
- {name: c, run: [{action: log, message: "{{ y }}"}]}
');
CREATE TABLE playbooks (
    tenant text not null,
    name text not null,
    version text not null,
    number integer not null,
    plan_hash text not null,
    created_at real not null,
    removed_at real,
    primary key (tenant, name, version)
) without rowid;
CREATE TABLE runs (
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
, trace text);
INSERT INTO "runs" VALUES('earlier','default','play',NULL,'d3c262d755d770f6d0fad4849ee5086e1b7c549925653c63eeffe11dfc70e7e6','running','local','earlier','{}','{}','{}','[]',NULL,NULL,NULL,NULL,NULL,0,NULL,0.0,0.0,NULL,NULL,2,0,NULL,0,5,NULL,NULL,'[]',NULL);
CREATE TABLE tokens (
    hash text primary key,
    run_id text not null,
    visit_id text not null,
    wait_id text not null
) without rowid;
CREATE TABLE visit_counts (
    run_id text not null,
    step text not null,
    visits integer not null,
    primary key (run_id, step)
) without rowid;
CREATE TABLE "visits" (
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
INSERT INTO "visits" VALUES('earlier','077f09b9ac6ba7a14768','a','earlier','succeeded',0,1,'{}',1,1,1,1,'one',30.0,0.0,0.0,0.0,'{"x":1}','=',0,NULL,NULL,NULL);
INSERT INTO "visits" VALUES('earlier','bfae4534e98bcb5dde0d','b','earlier','waiting',12288,2,'{"x":[1,"077f09b9ac6ba7a14768"],"steps.a":[1,"077f09b9ac6ba7a14768"]}',1,1,0,1,'one',60.0,0.0,NULL,NULL,'{"y":2}',NULL,NULL,NULL,NULL,'{"round":0,"journal":{"run.1":{"action":"wait","attempt":1,"begun":1,"tries":[0,1],"started_at":0.0,"memory":{"due_at":60.0}},"run":{"at":1},"time":{"tries":[0,1],"seconds":0.0002401020028628409,"since":null}}}');
INSERT INTO "visits" VALUES('earlier','716cd61c6efd13b19990','c','earlier','ready',12289,2,'{"x":[1,"077f09b9ac6ba7a14768"]}',1,1,0,0,NULL,253402300799.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE waits (
    run_id text not null,
    visit_id text not null,
    id text not null,
    answer text,
    answered_at real,
    heard_at real,
    closed_at real,
    primary key (run_id, visit_id, id)
) without rowid;
CREATE INDEX runs_newest on runs (tenant, created_at desc, id desc);
CREATE INDEX runs_children on runs (parent_run) where parent_run is not null;
CREATE UNIQUE INDEX playbooks_newest on playbooks (tenant, name, number desc);
CREATE INDEX keys_oldest on keys (tenant, created_at, id);
CREATE INDEX runs_open on runs (created_at) where finished_at is null;
CREATE INDEX runs_ended on runs (finished_at) where finished_at is not null;
CREATE INDEX tokens_of_runs on tokens (run_id);
CREATE INDEX idempotency_keys_of_runs on idempotency_keys (run_id);
CREATE INDEX visits_due on visits (queue, due_at, position)
    where (status = 'ready' or status = 'running' or status = 'waiting' or status = 'retrying');
CREATE INDEX visits_active on visits (run_id, status)
    where (status = 'ready' or status = 'running' or status = 'waiting' or status = 'retrying');
COMMIT;
pragma user_version = 7;
