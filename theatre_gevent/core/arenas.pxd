cdef extern from *:
    """
    #if defined(__linux__)
    #include <stdint.h>
    #include <sys/mman.h>
    #if defined(MADV_HUGEPAGE)
    #define THEATRE_HUGE_PAGES 1

    /* The interpreter asks for arenas of 1 MiB with the GIL held. They are cut from chunks that begin at the boundary
       of a huge page, so that two neighbours share one. */
    #define THEATRE_HUGE ((size_t) 2 << 20)
    #define THEATRE_CHUNK ((size_t) 32 << 20)
    static char *theatre_next = NULL, *theatre_end = NULL;

    static void *theatre_map(size_t size) {
        void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return address == MAP_FAILED ? NULL : address;
    }
    static void *theatre_arena_alloc(void *ctx, size_t size) {
        char *arena;
        (void) ctx;
        if (size == 0 || size > THEATRE_HUGE || THEATRE_HUGE % size != 0) return theatre_map(size);
        if ((size_t) (theatre_end - theatre_next) < size) {
            char *whole = (char *) theatre_map(THEATRE_CHUNK + THEATRE_HUGE);
            size_t before;
            if (whole == NULL) return theatre_map(size);
            before = (THEATRE_HUGE - (uintptr_t) whole % THEATRE_HUGE) % THEATRE_HUGE;
            if (before) munmap(whole, before);
            munmap(whole + before + THEATRE_CHUNK, THEATRE_HUGE - before);
            if (theatre_next != theatre_end) munmap(theatre_next, theatre_end - theatre_next);
            theatre_next = whole + before;
            theatre_end = theatre_next + THEATRE_CHUNK;
            madvise(theatre_next, THEATRE_CHUNK, MADV_HUGEPAGE);
        }
        arena = theatre_next;
        theatre_next += size;
        return arena;
    }
    static void theatre_arena_free(void *ctx, void *address, size_t size) {
        (void) ctx;
        munmap(address, size);
    }
    #endif
    #endif
    static int theatre_use_huge_pages(void) {
    #if defined(THEATRE_HUGE_PAGES)
        PyObjectArenaAllocator arenas;
        PyObject_GetArenaAllocator(&arenas);
        if (arenas.alloc != theatre_arena_alloc) {
            arenas.ctx = NULL;
            arenas.alloc = theatre_arena_alloc;
            arenas.free = theatre_arena_free;
            PyObject_SetArenaAllocator(&arenas);
        }
        return 1;
    #else
        return 0;
    #endif
    }
    """
    bint theatre_use_huge_pages() noexcept


cdef inline bint install() noexcept:
    return theatre_use_huge_pages()
