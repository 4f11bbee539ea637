-- Facts for metrics. Only one write transaction is open at a time, so both statements see the same rows.

-- name: group
select tenant, playbook, kind, status, bucket, count(*) as count, sum(seconds) as seconds
from (select * from facts order by rowid limit :limit) group by tenant, playbook, kind, status, bucket

-- name: delete_grouped
delete from facts where rowid in (select rowid from facts order by rowid limit :limit)
