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
