-- Channels to which notifications are sent.

-- name: get
select record from channels where tenant = :tenant and name = :name

-- name: find
select record from channels where tenant = :tenant order by name {binary}

-- name: add
insert into channels (tenant, name, events, edition, record)
values (:tenant, :name, :events, :edition, :record) on conflict do nothing

-- name: change
update channels set events = :events, edition = :edition, record = :record
where tenant = :tenant and name = :name and edition = :edition_before

-- name: remove
delete from channels where tenant = :tenant and name = :name and edition = :edition
