-- Waits of visits, their tokens and answers.

-- name: is_held
select 1 from visits where {held}

-- name: open
insert into waits (run_id, visit_id, id) values (:run_id, :visit_id, :id) on conflict do nothing

-- A wait with a token is in the list of open waits of its tenant.
-- name: open_listed
insert into waits (run_id, visit_id, id, tenant, rank) values (:run_id, :visit_id, :id, :tenant, :rank)
on conflict (run_id, visit_id, id) do update set tenant = excluded.tenant, rank = excluded.rank

-- name: unlist
update waits set tenant = null where run_id = :run_id and tenant is not null

-- name: list_again
update waits set tenant = (select tenant from runs where id = :run_id)
where run_id = :run_id and rank is not null

-- The places of a page of open waits, and the lengths of the journals of their visits, which are not read.
-- name: find_places
select waits.rank, waits.run_id, waits.visit_id, waits.id, {journal_length} as journal
{from_open_waits}
and (waits.rank, waits.run_id, waits.visit_id, waits.id) > (:rank, :run_id, :visit_id, :id) -- optional
{by_place}

-- The open waits of a page with their visits.
-- name: find_open
select waits.id as wait_id, waits.rank, runs.playbook, runs.plan_hash, visits.run_id, visits.id, visits.step,
    visits.status, visits.clock, visits.names, visits.number, visits.attempt, visits.claims, visits.fence,
    visits.worker, visits.due_at, visits.started_at, visits.piece_at, visits.finished_at, visits."case",
    visits.error, visits.failure, visits.progress
{from_open_waits}
and (waits.rank, waits.run_id, waits.visit_id, waits.id) >= (:rank, :run_id, :visit_id, :id)
{by_place}

-- name: add_token
insert into tokens (hash, run_id, visit_id, wait_id, fields)
values (:token_hash, :run_id, :visit_id, :id, :fields)

-- A deleted run may have left waits and tokens.
-- name: get
select * from waits where run_id = :run_id and visit_id = :visit_id and id = :id
and exists (select 1 from runs where runs.id = waits.run_id)

-- name: close
update waits set closed_at = coalesce(closed_at, :now)
where run_id = :run_id and visit_id = :visit_id and id = :id returning *

-- name: get_token
select * from tokens where hash = :token_hash
and exists (select 1 from runs where runs.id = tokens.run_id)

-- name: find_by_token
select tokens.run_id, tokens.visit_id, tokens.wait_id, tokens.fields, runs.tenant,
waits.answered_at, waits.closed_at
from tokens join runs on runs.id = tokens.run_id
left join waits
on waits.run_id = tokens.run_id and waits.visit_id = tokens.visit_id and waits.id = tokens.wait_id
where tokens.hash = :token_hash

-- name: is_active
select 1 from visits join runs on runs.id = visits.run_id
where visits.run_id = :run_id and visits.id = :visit_id
and visits.finished_at is null and runs.finished_at is null

-- name: record_heartbeat
update waits set heard_at = :now where run_id = :run_id and visit_id = :visit_id and id = :id

-- name: answer
insert into waits (run_id, visit_id, id, answer, answered_at) values (:run_id, :visit_id, :id, :answer, :now)
on conflict (run_id, visit_id, id) do update set answer = excluded.answer, answered_at = excluded.answered_at

-- A suspended visit is due at once, a parked visit when its run resumes.
-- name: make_due
update visits set due_at = :now where run_id = :run_id and id = :visit_id and status in ('waiting', 'parked')

-- name: delete
delete from waits where run_id = :run_id and visit_id = :visit_id and id = :id

-- name: find_answered
select id from waits where run_id = :run_id and visit_id = :visit_id and answered_at is not null
