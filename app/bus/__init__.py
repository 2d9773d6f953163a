"""The buses between the servers of one fleet, one file each, all by app.broadcaster.Bus."""
