-- Waits of visits, their tokens and answers.

-- name: is_held
select 1 from visits where {held}

-- name: open
insert into waits (run_id, visit_id, id) values (:run_id, :visit_id, :id) on conflict do nothing

-- name: add_token
insert into tokens (hash, run_id, visit_id, wait_id, fields)
values (:token_hash, :run_id, :visit_id, :id, :fields)

-- name: get
select * from waits where run_id = :run_id and visit_id = :visit_id and id = :id

-- name: close
update waits set closed_at = coalesce(closed_at, :now)
where run_id = :run_id and visit_id = :visit_id and id = :id returning *

-- name: get_token
select * from tokens where hash = :token_hash

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
