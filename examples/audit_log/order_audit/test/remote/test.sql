SELECT count(*) = 6, count(*) FROM audit.entry;
SELECT count(*) = 2, count(*) FROM audit.entry WHERE operation = 'insert' AND committed_at IS NULL;
SELECT old_state = 'new' AND new_state = 'paid', old_state, new_state FROM audit.entry WHERE operation = 'update';
SELECT old_state = 'new' AND new_state IS NULL, old_state, new_state FROM audit.entry WHERE operation = 'delete';
