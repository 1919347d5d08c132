# TruckerProject.pm: folders of projects, for tests.
#
#   project_dir($node)                a new folder, empty; trucker.project_dir of the server
#   project_files($dir, name => text, ...)
#                                     write files; undef removes one
package TruckerProject;

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use File::Path;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(
  project_dir
  project_files
);

my $count = 0;

sub project_dir
{
	my ($node) = @_;
	my $dir = $node->basedir . '/project' . $count++;

	mkpath $dir;
	$node->append_conf('postgresql.conf', "trucker.project_dir = '$dir'");
	$node->reload if $node->{_pid};
	return $dir;
}

sub project_files
{
	my ($dir, %files) = @_;

	foreach my $name (sort keys %files)
	{
		my $path = "$dir/$name";

		if (!defined $files{$name})
		{
			unlink $path or die "$path: $!";
			next;
		}
		mkpath dirname($path);
		open my $file, '>', $path or die "$path: $!";
		print $file $files{$name};
		close $file or die "$path: $!";
	}
	return;
}

1;
