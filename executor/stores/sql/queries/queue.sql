-- Claims, leases and commits of visits.

-- The longest due visits of the tenant whose turn it is: the next one after `:after` that has any. `turns`
-- steps from tenant to tenant by the index `visits_turns`, and stops at the first one with a due visit. Lap 0
-- has the tenants after `:after`; lap 1 begins again with the first one. Keys are those of `{turn}`; `:ids`
-- are passed over. The first rows are the longest due visits that wait for nothing, and the others are those
-- of any kind. No visit before `:since` is read, nor the ends of leases, which are after `:now`.
-- name: find_due
with recursive head (due_at) as (
    select due_at from visits where queue = :queue and {active} and due_at >= :since and due_at <= :now
    order by due_at limit 1
), turns (key, lap) as (
    select cast(:after as text) {binary}, 0
    where exists (select 1 from head)
    union all
    select (
        select {turn} from visits
        where {turn} > coalesce(turns.key, :queue || ' ') and {turn} < :queue || '!' and due_at >= :since
        and {active}
        order by {turn} limit 1
    ), turns.lap + case when turns.key is null then 1 else 0 end
    from turns where turns.lap = 0 or turns.key < :after
), next_turn as (
    select key from turns where (lap = 1 or key > :after) and exists (
        select 1 from visits where {turn} = turns.key and {active} and due_at >= :since and due_at <= :now
    )
    and not (key {in_ids}) -- optional
    limit 1
)
select ready.*, {run_of_due} from (
    select 1 as is_ready, (select due_at from head) as first_due, {visit_columns}, tenant from visits
    where {turn} = (select key from next_turn) and status = 'ready' and due_at >= :since and due_at <= :now
    order by due_at, position limit :limit
) as ready
union all
select longest_due.*, {run_of_due} from (
    select 0 as is_ready, (select due_at from head) as first_due, {visit_columns}, tenant from visits
    where {turn} = (select key from next_turn) and {active} and due_at >= :since and due_at <= :now
    order by due_at, position limit :limit
) as longest_due

-- name: write_claim
update visits set {set_claim} where {is_unchanged_and_due} returning saved

-- name: begin_run
{begin_run} where id = :run_id

-- name: count_active
select count(*) as active, min(due_at) as first_due from (
    select due_at from visits where {turn} = :turn and {active} and due_at >= :since
    order by due_at limit :limit
) as counted

-- name: next_due
select due_at from visits where queue = :queue and {active}
and due_at >= :since -- optional
and due_at <= :until -- optional
order by due_at limit 1

-- name: renew
update visits set due_at = :until where {held}

-- name: next_seq
update runs set seq = seq + 1 where id = :run_id returning seq

-- name: release
update visits set due_at = :now, fence = fence + 1, claims = claims - :uncounted, worker = null where {held}

-- name: find_workers
select distinct worker from visits where queue = :queue and {active} and status = 'running' and due_at > :now

-- name: end_leases
update visits set due_at = :now where queue = :queue and {active} and status = 'running' and worker {in_ids}

-- name: count_outcome
update runs set seq = seq + 1, live = live + :branches_change,
    failed_branches = failed_branches + :failed_branches,
    stop = coalesce(nullif(stop, 'paused'), :stop, stop), error = coalesce(error, :run_error)
where id = :run_id

-- A suspended visit of a run that stops or is paused is parked.
-- name: write_outcome
update visits set status = case when :may_park and exists (
        select 1 from runs where id = visits.run_id and stop is not null
    ) then 'parked' else :status end,
    attempt = :attempt, claims = :claims, due_at = :due_at, started_at = :started_at,
    piece_at = :segment_started_at, finished_at = :finished_at, saved = :saved, result = :result,
    "case" = :case, error = :error, failure = :failure, failures = :failures, progress = :progress
where {held}

-- name: read_run
select {run_columns} from runs where id = :run_id

-- name: add_batch_result
insert into parts values (:run_id, :visit_id, :loop, :position, :body)
on conflict (run_id, visit_id, loop, position) do update set body = excluded.body

-- name: delete_batch_results
delete from parts where run_id = :run_id and visit_id = :visit_id

-- name: finish_run
update runs set seq = seq + 1, status = :status, result = :result, errors = :errors,
    error = coalesce(error, :error), stop = nullif(stop, 'paused'), finished_at = :finished_at
where id = :run_id returning seq, error
