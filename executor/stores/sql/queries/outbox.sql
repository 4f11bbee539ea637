-- The outbox: what is done after runs have ended, or if they are late.

-- The triggers and channels that the end of a run of a playbook concerns: a row without a name if there are
-- triggers, and a row for each channel.
-- name: find_subscribers
select null as name, null as events
where exists (select 1 from triggers where tenant = :tenant and awaits = :playbook)
union all
select name, events from channels where tenant = :tenant and events is not null

-- name: find_due
select record from outbox where kind = :kind and due_at <= :now
and not (tenant {in_ids}) -- optional
order by due_at limit :limit

-- Due notifications of many channels (`model.outbox.NotificationSearch`). The lane of one is the end of its
-- id. All lanes have the same length. `place` is the number in the lane, and `turn` that in the tenant.
-- In SQLite the innermost query reads an index only. Bytes are compared sooner than letters of a language.
-- name: find_due_notifications
select (select record from outbox where outbox.tenant = found.tenant and outbox.id = found.id) as record
from (
    select tenant, id, due_at, row_number() over (partition by tenant {binary} order by place, due_at) as turn
    from (
        select tenant, id, due_at,
            row_number() over (partition by tenant {binary}, substr(id, 17) {binary} order by due_at) as place
        from (
            select tenant, id, due_at from outbox where kind = :kind and due_at <= :now
            and not (tenant {in_ids}) -- optional
            and not ((substr(id, 17) || tenant) {in_lanes}) -- optional
            order by due_at limit :oldest
        ) as oldest
    ) as placed
    where place <= :of_channel
    order by turn, due_at limit :limit
) as found
order by turn, due_at

-- name: get
select record from outbox where tenant = :tenant and id = :id

-- name: find
select record from outbox where tenant = :tenant and kind = :kind
and position < :before -- optional
order by position desc limit :limit

-- name: add
insert into outbox (tenant, id, kind, position, due_at, expires_at, edition, record)
values (:tenant, :id, :kind, :position, :due_at, :expires_at, :edition, :record) on conflict do nothing

-- name: change
update outbox set due_at = :due_at, expires_at = :expires_at, edition = :edition, record = :record
where tenant = :tenant and id = :id and edition = :edition_before

-- name: remove
delete from outbox where tenant = :tenant and id = :id and edition = :edition_before

-- name: find_expired
select 1 from outbox where expires_at <= :now order by expires_at limit 1

-- name: delete_expired
delete from outbox where (tenant, id) in (
    select tenant, id from outbox where expires_at <= :now order by expires_at limit :limit
)
