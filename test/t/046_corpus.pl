# What fuzzing has found worth keeping (test/fuzz), once more inside a server: whatever
# the bytes are, the decoders and the templates accept them or refuse them with the
# error that they have for it, and the backend lives.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use TruckerTest;

my $corpus = "$FindBin::RealBin/../fuzz/corpus";
my $node = trucker_node('corpus', extension => 0);

# in this encoding any bytes but a zero are a text; templates must be valid UTF8
$node->safe_psql('postgres', q{CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0});
foreach my $db ('postgres', 'bytes')
{
	$node->safe_psql($db, q{
		CREATE EXTENSION trucker;
		CREATE FUNCTION decode(text) RETURNS text AS 'trucker', 'trucker_test_decode' LANGUAGE C STRICT;
		CREATE FUNCTION render(text, text) RETURNS text AS 'trucker', 'trucker_test_render' LANGUAGE C STRICT;
		CREATE FUNCTION decode_pgoutput(text, bytea[]) RETURNS text AS 'trucker', 'trucker_test_pgoutput' LANGUAGE C STRICT;
		-- messages, each behind its length
		CREATE FUNCTION messages(input bytea) RETURNS bytea[] LANGUAGE plpgsql AS $$
		DECLARE
			at int := 1;
			result bytea[] := '{}';
			len int;
		BEGIN
			WHILE at < length(input) LOOP
				len := least(get_byte(input, at - 1) * 256 + get_byte(input, at), length(input) - at - 1);
				result := result || substr(input, at + 2, len);
				at := at + 2 + len;
			END LOOP;
			RETURN result;
		END $$;
		CREATE FUNCTION outcome(what text, input bytea) RETURNS text LANGUAGE plpgsql AS $$
		DECLARE
			content text;
		BEGIN
			IF what = 'pgoutput' THEN
				PERFORM public.decode_pgoutput('trucker', public.messages(input));
				RETURN 'accepted';
			END IF;
			BEGIN
				content := convert_from(input, getdatabaseencoding());
			EXCEPTION WHEN character_not_in_repertoire THEN
				RETURN 'no text';
			END;
			IF what = 'stream' THEN
				PERFORM public.decode(content);
			ELSIF what = 'function' THEN
				PERFORM trucker.decode_wal2json(content);
			ELSE
				PERFORM public.render(content, operation) FROM unnest('{insert,update,delete}'::text[]) operation;
			END IF;
			RETURN 'accepted';
		EXCEPTION
			WHEN protocol_violation THEN
				RETURN CASE WHEN what <> 'template' THEN 'refused' ELSE 'WRONG: ' || SQLERRM END;
			WHEN syntax_error OR datatype_mismatch THEN
				RETURN CASE WHEN what = 'template' THEN 'refused' ELSE 'WRONG: ' || SQLERRM END;
			WHEN OTHERS THEN
				RETURN 'WRONG: ' || SQLSTATE || ' ' || SQLERRM;
		END $$});
}

# outcomes($db, $what, $directory): how many of the files come to what
sub outcomes
{
	my ($db, $what, $directory) = @_;

	my %count = map { split /\|/ } split /\n/, $node->safe_psql($db, qq{
		SELECT outcome('$what', pg_read_binary_file('$corpus/$directory/' || file)), count(*)
		FROM pg_ls_dir('$corpus/$directory') file GROUP BY 1});
	return \%count;
}

foreach (
	[ 'bytes', 'stream', 'wal2json' ],
	[ 'bytes', 'function', 'wal2json' ],
	[ 'postgres', 'stream', 'wal2json' ],
	[ 'postgres', 'function', 'wal2json' ],
	[ 'bytes', 'pgoutput', 'pgoutput' ],
	[ 'postgres', 'pgoutput', 'pgoutput' ],
	[ 'postgres', 'template', 'template' ])
{
	my ($db, $what, $directory) = @$_;
	my $count = outcomes($db, $what, $directory);
	my @files = glob "$corpus/$directory/*";
	my $total = 0;

	$total += $_ foreach values %$count;
	is($total, scalar @files, "$what, database $db: each of the files");
	is(join(', ', grep { /WRONG/ } keys %$count), '', 'is accepted or refused');
	ok($count->{accepted} && $count->{refused}, 'and both occur');
}
unlike(slurp_file($node->logfile), qr/terminated by signal|TRAP:/, 'nothing has crashed');

$node->stop;
done_testing();
