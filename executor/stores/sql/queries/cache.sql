-- Cached results of work, and the visits that compute them.

-- name: find
select * from cached_results where tenant = :tenant and digest = :digest

-- The claim of a holder on the queue, unless it has ended.
-- name: find_claim
select 1 as found from visits
where run_id = :run_id and id = :visit_id and fence = :fence and status = 'running' and due_at > :now

-- A result that can still be used by others stays.
-- name: hold
insert into cached_results as kept
    (tenant, digest, playbook, step, label, holder, run_id, created_at, expires_at, size, value)
values (:tenant, :digest, :playbook, :step, :label, :holder, :run_id, :now, :expires_at, 0, null)
on conflict (tenant, digest) do update set
    holder = excluded.holder,
    created_at = case when {is_current} then kept.created_at else excluded.created_at end,
    expires_at = case when {is_current} then kept.expires_at else excluded.expires_at end,
    value = case when {is_current} then kept.value else null end

-- name: save
update cached_results set playbook = :playbook, step = :step, label = :label, run_id = :run_id, holder = null,
    created_at = :now, expires_at = :expires_at, size = :size, value = :value
where tenant = :tenant and digest = :digest and holder = :holder

-- name: delete_hold
delete from cached_results
where tenant = :tenant and digest = :digest and holder = :holder and value is null

-- name: release
update cached_results set holder = null where tenant = :tenant and digest = :digest and holder = :holder

-- name: find_entries
select digest, playbook, step, label, run_id, created_at, expires_at, size from cached_results
where tenant = :tenant and value is not null and expires_at > :now
    and playbook = :playbook -- optional
    and step = :step -- optional
    and (substr(label, 1, {key_length}) = :key or substr(digest, 1, {key_length}) = :key) -- optional
    and created_at < :before -- optional
order by created_at desc, digest limit :limit

-- name: find_cleared
select digest from cached_results
where tenant = :tenant and digest > :after
    and playbook = :playbook -- optional
    and step = :step -- optional
    and (substr(label, 1, {key_length}) = :key or substr(digest, 1, {key_length}) = :key) -- optional
    and created_at < :before -- optional
order by digest limit :limit

-- name: clear
delete from cached_results
where tenant = :tenant and digest {in_ids}
    and playbook = :playbook -- optional
    and step = :step -- optional
    and (substr(label, 1, {key_length}) = :key or substr(digest, 1, {key_length}) = :key) -- optional
    and created_at < :before -- optional
returning size

-- name: find_expired
select 1 as found from cached_results where expires_at <= :now limit 1

-- name: delete_expired
delete from cached_results where (tenant, digest) in (
    select tenant, digest from cached_results where expires_at <= :now limit :limit
)
