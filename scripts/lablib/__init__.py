"""The lab: a real Xen with a Linux PV dom0 under QEMU, from Debian packages that are never installed.

Modules, from what stands alone to what uses the others:

- errors: what ends a command, with its exit code
- progress: what the user sees while waiting
- places: where the cache and the running labs live
- packages: which Debian packages and which of their files a lab needs, as data
- sources: the apt sources of this machine, read and rewritten for another suite
- apt: apt with a private tree
- unpack: files out of a Debian package
- cache: downloaded and unpacked suites
- elf: what is read of ELF files
- toolstack: which of the unpacked files dom0 gets
- fetching: packages chosen, downloaded and unpacked
- archive, initramfs: the user space of the domains
- qmp: the control socket of QEMU
- labs: the running labs, their facts on disk, their end
- machine: the command line and the start of QEMU
- boot: waiting for dom0
- dom0: shell scripts in a dom0 with a toolstack
- domus: guests
- deliver: large files on their way to the user
- dump: memory to an ELF core; livedump: the same from a machine that keeps running
- collect, crash: files that dom0 or the crash kernel makes
- verbs, domu_verbs, options, cli: what the user types
"""
