-- API keys.

-- name: add
insert into keys values (:id, :hash, :tenant, :name, :scopes, :created_at, null, null) on conflict do nothing

-- name: get
select * from keys where id = :id

-- name: find
select * from keys where tenant = :tenant order by created_at, id

-- Keys that the service uses itself (SERVICE_TENANT) do not count.
-- name: any
select 1 as found from keys where tenant <> '_service' limit 1

-- name: revoke
update keys set revoked_at = coalesce(revoked_at, :now) where tenant = :tenant and id = :id

-- name: touch
update keys set last_used_at = :now where id = :id and coalesce(last_used_at, 0) < :now

-- name: count_earlier_requests
select coalesce(sum(used), 0) as used from request_counts
where subject = :subject and slot >= :oldest and slot < :slot

-- The place of another slot is taken over: an earlier one, or one that a clock counted which was ahead.
-- name: count_requests
insert into request_counts as counts (subject, place, slot, used) values (:subject, :place, :slot, :size)
on conflict (subject, place) do update set slot = excluded.slot,
    used = excluded.used + case when counts.slot = excluded.slot then counts.used else 0 end
where counts.slot < excluded.slot
    or (counts.slot > excluded.slot and excluded.used > 0)
    or (counts.slot = excluded.slot and counts.used + excluded.used <= :allowed)
