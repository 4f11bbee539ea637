-- Runs in SQLite.

-- The latest visits of runs that have visited a step often. The steps and the latest visit of each are found
-- in an index, one after the other. Visits of a step on a cycle are numbered. So the number of the latest one
-- says how many there are, and only those that have not started are counted. A run that has stopped, or that
-- performs its branches one at a time, may have parked visits. One that continues another run may have visits
-- of it. Theirs are counted in the index.
-- name: latest_visits_of_long_runs
with recursive names (owner, name) as (
    select value, (select step from visits where run_id = value order by step desc limit 1)
    from json_each(:ids)
    union all
    select owner, (select step from visits where run_id = owner and step < name order by step desc limit 1)
    from names where name is not null
), numbered as (
    select id from runs where id {in_ids} and resumed_from is null and stack is null
    and case when finished_at is null then stop is null else status = 'succeeded' end
)
select run_id, id, step, status, number, attempt, due_at, started_at, finished_at, "case", error,
    case when length(progress) <= :max_journal then progress end as progress,
    length(progress) > :max_journal as is_long, length(progress) as journal,
    case when number > 1 and owner in (select id from numbered) then number - (
        select count(*) from visits as unclaimed indexed by visits_active
        where unclaimed.run_id = owner and unclaimed.step = name and {active}
        and unclaimed.started_at is null and unclaimed.attempt = 1 and unclaimed.progress is null
    ) else (
        select count(started_at) from visits as claimed where claimed.run_id = owner and claimed.step = name
    ) + (
        select count(*) from visits as unclaimed where unclaimed.run_id = owner and unclaimed.step = name
        and unclaimed.started_at is null and (unclaimed.attempt > 1 or unclaimed.progress is not null)
    ) end as started
from names cross join visits where run_id = owner and step = name and position = (
    select position from visits as newest where newest.run_id = owner and newest.step = name
    order by position desc limit 1
)

-- The newest runs of several playbooks, `:limit` of each.
-- name: find_newest
select {summary_columns} from json_each(:ids) as wanted cross join runs where runs.id in (
    select newest.id from runs as newest where newest.tenant = :tenant and newest.playbook = wanted.value
    order by newest.created_at desc, newest.id desc limit :limit
)
order by runs.created_at desc, runs.id desc

-- The input, environment and variables of a run, as JSON.
-- name: write_data
insert into run_data (run_id, environment, variables, input)
values (:run_id, :environment, :variables, :input)
on conflict (run_id) do update set environment = excluded.environment, variables = excluded.variables,
    input = excluded.input

-- name: find_lost_data
select id as run_id from runs where not exists (select 1 from run_data where run_data.run_id = runs.id)
limit :limit

-- name: find_data_without_run
select run_id, 'run_data' as "table" from run_data
where not exists (select 1 from runs where runs.id = run_data.run_id) limit :limit
