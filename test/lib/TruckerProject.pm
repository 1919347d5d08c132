# TruckerProject.pm: projects, written by tests.
#
#   my $project = project($node, $name);        an empty folder that the server can read
#   $project->put($file => $text, ...);         write files; undef removes one
#   $project->dir                               its path
#   errors($node, $project, %opts)              the lines that plan() complains with
#   my $dir = project_dir($node);               the folder of an empty project, the server's own
#   project_files($dir, $file => $text, ...)    put() for a folder
package TruckerProject;

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use File::Path qw(make_path remove_tree);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(project errors project_dir project_files);

sub project
{
	my ($node, $name) = @_;
	my $dir = $node->basedir . "/$name";

	remove_tree($dir);
	make_path($dir);
	return bless { dir => $dir }, __PACKAGE__;
}

sub dir
{
	my ($self) = @_;

	return $self->{dir};
}

sub put
{
	my ($self, %files) = @_;

	foreach my $file (sort keys %files)
	{
		my $path = "$self->{dir}/$file";

		if (!defined $files{$file})
		{
			-d $path ? remove_tree($path) : unlink($path);
			next;
		}
		make_path(dirname($path));
		open my $handle, '>:raw', $path or die "$path: $!";
		print $handle $files{$file};
		close $handle or die "$path: $!";
	}
	return $self;
}

# trucker.project_dir is set to it, and read when the server is reloaded.
sub project_dir
{
	my ($node) = @_;
	my $dir = project($node, 'project')->dir;

	$node->append_conf('postgresql.conf', "trucker.project_dir = '$dir'");
	$node->reload;
	return $dir;
}

sub project_files
{
	my ($dir, %files) = @_;

	(bless { dir => $dir }, __PACKAGE__)->put(%files);
	return;
}

# errors($node, $project, function => 'plan', sql => ...): what is in the detail of the
# error, line by line; empty if there is none.  Something else than such an error dies.
sub errors
{
	my ($node, $project, %opts) = @_;
	my $function = $opts{function} // 'plan';
	my ($rc, $stdout, $stderr) = $node->psql(
		$opts{db} // 'postgres',
		($opts{sql} // '') . "; SELECT * FROM trucker.$function('" . $project->dir . "')",
		extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	return () if $rc == 0;
	$stderr =~ /ERROR:  F0000: project "[^"]*" has (an error|\d+ errors)\nDETAIL:  (.*?)\nHINT:  Nothing has been changed\./s
	  or die "another error: $stderr";
	my ($count, $detail) = ($1, $2);
	my @lines = split /\n/, $detail;

	$count = $count eq 'an error' ? 1 : $count =~ s/ .*//r;

	die "$count errors, but: $stderr" if $count <= 100 && $count != @lines;
	return @lines;
}

1;
