"""What the operating system tells of this machine and of the processes on it, without libraries."""
