//! A file system of its own, in a file, on a loop device. Needs root, and a machine that has loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// A file system in a file. It is unmounted when this goes.
#[derive(Debug)]
pub struct LoopMount {
    /// The file.
    pub image: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
}

impl LoopMount {
    /// Makes a file system of a kind (`ext4` or `xfs`) below a directory and mounts it, or says why not.
    pub fn new(directory: &Path, kind: &str) -> Result<LoopMount, String> {
        let mount = LoopMount { image: directory.join("image"), point: directory.join("mounted") };
        std::fs::create_dir(&mount.point).map_err(|error| error.to_string())?;
        let image = File::create(&mount.image).and_then(|file| file.set_len(400 << 20));
        image.map_err(|error| error.to_string())?;
        let make = if kind == "xfs" { ["mkfs.xfs", "-q"] } else { ["mkfs.ext4", "-qF"] };
        run(Command::new(make[0]).arg(make[1]).arg(&mount.image))?;
        mount.mount()?;
        Ok(mount)
    }

    /// Mounts it again.
    pub fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.point))
    }

    /// Unmounts it, and waits until the kernel has let go of it: a process that has a copy of all mounts (`unshare -m`)
    /// keeps it alive, and a mount would show what was stopped, not what is on the disk.
    pub fn unmount(&self) -> Result<(), String> {
        run(Command::new("umount").arg(&self.point))?;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            let attached = Command::new("losetup").arg("-j").arg(&self.image).output();
            if attached.map_err(|error| error.to_string())?.stdout.is_empty() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err("another process keeps the file system mounted".to_owned())
    }

    /// Stops the file system as a power cut would: nothing is flushed any more.
    pub fn cut_power(&self) -> Result<(), String> {
        // EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN: `_IOR('X', 125, u32)`, with the flag "do not flush the log".
        let request = r#"
            open(my $root, "<", $ARGV[0]) or die $!;
            my $flag = pack("I", 2);
            ioctl($root, 0x8004587d, $flag) or die $!;
        "#;
        run(Command::new("perl").args(["-e", request]).arg(&self.point))
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.point).output();
    }
}

/// Runs a command, or says why it failed.
pub fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { stderr, .. }) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
